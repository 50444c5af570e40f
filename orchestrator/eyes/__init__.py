"""Who looks on at a run, by its settings. Each is a file of its own, and loads its library only where it is wanted."""

from orchestrator.eyes.terminal import LiveTable
from orchestrator.observers import Observer
from orchestrator.run_folder import RunFolder
from orchestrator.seats import Seats
from shared.config import Config


def make_observers(config: Config, folder: RunFolder, seats: Seats, *, simulated: bool = False) -> list[Observer]:
    """All that the settings ask for.

    Args:
        config: the settings.
        folder: of the run.
        seats: the tenants that are here.
        simulated: whether one machine plays all of them.

    Raises:
        MissingDependencyError: a library is not installed.
        NetworkError: something else listens at one of the addresses.
        ConfigError: event files or MLflow's runs can't be written there.
    """
    observers: list[Observer] = [LiveTable(config)]
    try:
        if config.metrics_address:
            from orchestrator.eyes.metrics import Metrics

            observers.append(Metrics(config, folder.name, seats))
        if config.live_address:
            from orchestrator.eyes.live import LivePage

            observers.append(LivePage(config, folder, seats, simulated=simulated))
        if config.tensorboard_dir:
            from orchestrator.eyes.tensorboard import EventFiles

            observers.append(EventFiles(config, folder.name))
        if config.mlflow_tracking_uri:
            from orchestrator.eyes.mlflow import MLflowRun

            observers.append(MLflowRun(config, folder.name))
    except BaseException:
        for observer in observers:
            observer.close()
        raise
    return observers
