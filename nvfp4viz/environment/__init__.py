"""Who reads which environment variable, and what they would run."""

from .findings import (
    CONSUMERS,
    SEVERITIES,
    VARIABLES,
    Finding,
    Settings,
    check,
    check_settings,
    environment_of,
    flashinfer_config,
    read_environment,
    read_process,
    recipe_from_environment,
    recipes_of,
    sglang_call,
)
