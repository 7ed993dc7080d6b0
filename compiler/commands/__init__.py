"""What each verb of the command line does; `cli.py` parses the arguments."""
