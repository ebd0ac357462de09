"""What started the ranks, and Ray.

The only room that imports ray, and with ``cli`` the only one that reads the environment.
"""
