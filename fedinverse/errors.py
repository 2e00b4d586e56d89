"""The errors a user can cause. Each carries one clear sentence and ends the program with exit code 2."""


class FedInverseError(Exception):
    """Something the operator can mend: bad config, missing data, damaged file. Exit code 2."""


class ConfigError(FedInverseError):
    """A configuration value is unknown, of the wrong type or impossible; names file, key and fix."""


class DataError(FedInverseError):
    """A data set is absent or not what it claims to be; says how to obtain it."""


class IntegrityError(FedInverseError):
    """A stored file does not match its hash, shape or value range; names the file."""


class StageError(FedInverseError):
    """A stage cannot start or finish in this state of the run directory; says what to run first."""


class NameTakenError(FedInverseError, ImportError):
    """A module of another origin bears the name of one of FedInverse's packages; names its file."""


class RefusedReplyError(FedInverseError):
    """A client's reply is not what the schema says; the message is the reason, in words that are safe to print."""
