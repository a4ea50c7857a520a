"""What a config must be to mean the same on a cluster as here. Knows configs and paths; sends nothing."""

import os
from collections.abc import Iterator

from sfr_batch.config.settings import Config
from sfr_batch.errors import ConfigError
from sfr_batch.model.sources.location import is_local, is_packaged
from sfr_batch.storage.locations import absolute_uri, is_s3


def check(config: Config) -> Config:
    """The config as it travels. Raises ConfigError if it means something else on the cluster."""
    absolute_uri(config.table.path)  # for the mistakes that need no cluster to be seen
    _check_paths(config)
    place = config.run.ray_address
    if place in ("none", "local"):
        raise ConfigError(
            f"run.ray_address is {place}, and a submitted job joins the cluster that it is submitted to. Remove the "
            "setting, or override it: run.ray_address=null. To embed on this machine: `sfr-batch embed`."
        )
    if place == "auto":  # the job knows its cluster better than the files of the head do
        return config.model_copy(update={"run": config.run.model_copy(update={"ray_address": None})})
    return config


def _check_paths(config: Config) -> None:
    """Raises ConfigError if a path begins in the working directory or the home folder of this machine."""
    wrong = [(setting, path) for setting, path in _paths(config) if _begins_here(setting, path)]
    if not wrong:
        return
    lines = "".join(f"\n  {setting}: {path}" for setting, path in wrong)
    raise ConfigError(
        "These paths begin in the working directory or the home folder of this machine, which do not travel to the "
        f"cluster:{lines}\nWrite s3://, or the absolute path of a file system that all nodes share. If they share this "
        f"one: {' '.join(_absolute(config, dict(wrong)))}"
    )


def _paths(config: Config) -> Iterator[tuple[str, str]]:
    """(setting, path) of all that a run reads and writes; a setting with a list comes several times."""
    corpus = config.corpus.path
    yield from (("corpus.path", path) for path in ([corpus] if isinstance(corpus, str) else corpus))
    yield "model.path", config.model.path
    yield from (("model.cache_dir", path) for path in filter(None, [config.model.cache_dir]))
    yield "table.path", config.table.path
    yield from (("table.reuse_from", path) for path in filter(None, [config.table.reuse_from]))


def _begins_here(setting: str, path: str) -> bool:
    if is_s3(path) or path.startswith(("/", "file:")):
        return False
    if setting == "model.path":  # of a hub name nothing lies here
        return is_local(path) and not is_packaged(path)
    return setting != "model.cache_dir" or not path.startswith("~")  # each node may have it in a home of its own


def _absolute(config: Config, wrong: dict[str, str]) -> Iterator[str]:
    """An override for each setting that is wrong."""
    for setting, path in wrong.items():
        if setting == "corpus.path" and not isinstance(config.corpus.path, str):
            yield f'{setting}="[{", ".join(absolute_uri(one) for one in config.corpus.path)}]"'
        else:
            yield f"{setting}={absolute_uri(path)}"


def table_uri(config: Config) -> str:
    """The table as the job and its watchers know it."""
    return absolute_uri(os.fspath(config.table.path))
