"""What is wrong with a set-up before a run begins, one line each, with the remedy. `client/doctor.py` and
`orchestrator/doctor.py` are the commands."""
