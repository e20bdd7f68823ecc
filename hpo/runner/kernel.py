"""A runner in a person's own process, its kernel, which started the worker at the other end of the pipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hpo.errors import HpoError
from hpo.objective import Objective
from hpo.runner.channel import Channel
from hpo.runner.interrupt import Interrupted, StopFlag
from hpo.runner.link import Link
from hpo.runner.messages import Boot, Broken, Quit, Ready
from hpo.runner.session import Session
from storage.database.errors import StorageError


def run_trials(
    descriptor: int, objective: Objective, code: Mapping[str, Any], on_interrupt: Callable[[], None]
) -> None:
    """Run what the worker hands out until it says to quit, or is gone; how it went is the worker's to say.

    The descriptor is this end of the pipe, `code` the fingerprint of the objective's code. Ctrl-C leaves at
    once, wherever it is: the worker gives back what this process held. `on_interrupt` is called before it
    sees that this end is gone.
    """
    stop = StopFlag()
    link = Link(Channel(descriptor), stop, on_end=lambda: link.lose_worker())
    try:
        boot = link.orders.get()
        if not isinstance(boot, Boot):  # the worker could not begin
            return
        session = Session(boot, link, stop, (objective, code))
        link.tell(Ready(dict(session.code), note=session.note))
        while not isinstance(order := link.orders.get(), Quit):
            assert not isinstance(order, Boot)
            session.run(order)
            link.tell(Ready())
    except (OSError, Interrupted):  # the worker is gone
        return
    except HpoError as error:
        _say_broken(link, str(error), error.exit_code)
    except StorageError as error:
        _say_broken(link, str(error), HpoError.exit_code)
    except KeyboardInterrupt:
        on_interrupt()
        raise
    finally:
        link.hang_up()


def _say_broken(link: Link, why: str, exit_code: int) -> None:
    try:
        link.tell(Broken(why, exit_code))
        while not isinstance(link.orders.get(), Quit):
            continue
    except OSError:  # gone itself
        return
