"""Who is who: the fleet's certificate authority (controller) and enrolment (device).

``profiles`` is shared by every side. ``enrol`` runs on devices and imports the
standard library alone. ``ca``, ``enrolment`` and ``tls`` are the controller's.
"""
