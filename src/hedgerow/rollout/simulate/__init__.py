"""A rollout over a fleet that is only computed: the same plan, decisions, budgets and judge, without a host.

``fleet`` says what devices are like, ``flaw`` what is wrong with a release, ``gate`` watches one device, ``run`` is the
mechanism (waves, forks, shared links), ``outcome`` sums up, ``recorded`` asks today's policy about a journal.
"""
