"""The errors that a user can mend: bad input, missing files, unfit weights."""


class PadimBenchError(Exception):
    """Bad input. The message is one line that names what is wrong and how to mend it.

    The command line prints it on standard error and exits with code 2.
    """


class WeightsNotFoundError(PadimBenchError):
    """No weights of that name are at hand or on a hub that answers. What is there but unfit is another error."""


class StrategyInvalidError(PadimBenchError):
    """A strategy's factorisation is numerically wrong on this machine.

    Raised when the residual of a fitted inverse is far from zero, as batched LU on a
    multi-threaded CPU gives (pytorch#142815). The benchmark records such a run as ``invalid``.
    """


class DataWarning(UserWarning):
    """Data was read, but not as it lies: files were left out, a mask was cut, values may be lost. One line.

    Also where there is less of it than the paper's equations ask for.
    """


ONE_IMAGE = (
    "1 training image has no covariance: epsilon I alone takes its place, and distances are Euclidean ones from that "
    "image, over the root of epsilon"
)
