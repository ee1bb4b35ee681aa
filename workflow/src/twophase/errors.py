"""The errors that a user can cause and mend: one message, no traceback needed."""


class TwophaseError(Exception):
    """Something the user can mend; the message names the key, file or step, what was expected and what came."""


class ConfigError(TwophaseError):
    """The config is wrong; the message lists every problem, one a line."""


class DataError(TwophaseError):
    """An image, folder, archive or prepared data set is missing or unusable."""


class ArtifactError(TwophaseError):
    """A checkpoint or netCDF file is damaged, or was made by other settings or other code."""


class ModelError(TwophaseError):
    """A network doesn't fit: its import path, its output shape, its mode or its coupling of examples."""


class DeviceError(TwophaseError):
    """There is no such device, or its memory is exhausted."""


class DiskError(TwophaseError, OSError):
    """A file can't be written: no space, no permission, or a disk that fails."""


class SchedulerError(TwophaseError):
    """SLURM can't be asked, or would never start what it is to run."""


class DivergenceError(TwophaseError):
    """The training loss became infinite or NaN at a stated step."""
