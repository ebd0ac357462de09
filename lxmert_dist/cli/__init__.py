"""What the commands in ``launch/`` do, each a function call away.

With ``cluster`` the only room that reads the environment.
"""
