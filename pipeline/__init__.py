"""Stages of a run (federate, invert, audit, report), the engines that run a federation, and the command line."""
