"""The tree of errors: one sentence each, saying what, got, expected, remedy."""


class AtrousError(Exception):
    """Base of every error that `atrous` raises on purpose."""


class ShapeError(AtrousError, ValueError):
    """Tensors that do not fit the geometry, or one another."""


class GeometryError(AtrousError, ValueError):
    """A geometry that cannot exist: a stride of 0, a negative padding, an unknown padding word."""


class BackendError(AtrousError, RuntimeError):
    """An implementation that is unknown or cannot run this call."""


class UnsupportedModule(AtrousError, TypeError):  # noqa: N818 - a name of the public design
    """A network whose footprint is not known; the message names the module and what to do."""


class CheckpointError(AtrousError, ValueError):
    """A weights file that is not what it should be."""


class DataError(AtrousError, ValueError):
    """A file or folder of data that cannot be read or written."""


class MissingExtra(AtrousError, ImportError):  # noqa: N818 - a name of the public design
    """An optional dependency is absent; the message names the extra to install."""
