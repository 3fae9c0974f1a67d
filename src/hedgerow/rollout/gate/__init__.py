"""The gate: whether a host that got a release may keep it.

Pure: ``judge`` (looks and answers → verdict) over ``criteria``, which are ``limits`` and ``comparisons`` with the tests
of ``statistics``; ``rules`` has the built-in ones. IO: ``session`` watches one host through a ``watcher``, asks at the
``pace`` that the policy allows, compares with ``baseline`` and ``controls``, and reads ``prometheus``.
"""
