"""The auditor: the only role that reads private images. Says how much of what an attacker shows is true leakage."""
