"""The exit codes of `krt`. Scripts and supervisors read them, so a number never changes its meaning."""

OK = 0
# Something that was asked for did not work out: a request, a process, a server.
FAILED = 1
# What a person wrote is wrong: the command line, KRT_* variables, the workflow file or a handler.
CONFIG = 2
# `krt send`: no answer came in time. A model host: a report has ended it, see `spec/model_host.py`.
TIMEOUT = 3
# `krt send`: the request was refused, and sending it again cannot help.
INVALID = 4
# The workflow does not run here, its server does not answer, or its stream takes nothing now.
UNAVAILABLE = 5
# Ended by Ctrl-C, as a shell reports it (128 + SIGINT).
INTERRUPTED = 130
