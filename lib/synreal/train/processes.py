"""The processes of one training, as `accelerate launch` or `torchrun` start them."""

import os

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from synreal.errors import InputError


def processes() -> PartialState:
    """How many processes train together, which of them this is, and means to wait for the others.

    Raises InputError where several were launched that cannot work together: each would take itself for the
    only one.
    """
    # Accelerate's own Accelerator heeds the variable, its PartialState does not
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != state.num_processes:
        raise InputError(
            f"WORLD_SIZE: found {launched}, but these processes cannot find each other (without GPUs?); "
            "launch one, or set ACCELERATE_USE_CPU=true for several on CPUs"
        )
    return state
