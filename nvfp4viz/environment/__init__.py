"""Who reads which environment variable, what each program would run, and what is wrong with it."""

from .assess import check_settings, program_of, settled, sites_of, ways, with_command
from .costs import Costs, bundled, phrase
from .finding import SEVERITIES, Finding
from .fixes import check
from .process import read_process, read_processes
from .programs import PROGRAMS, SITES, default_recipe, sites
from .read import read_environment, read_text
from .recipes import environment_of, flashinfer_config, recipe_from_environment, recipes_of, sglang_call
from .rules import CONSUMERS, VARIABLES, reading
from .settings import Remark, Settings

__all__ = [
    "CONSUMERS", "PROGRAMS", "SEVERITIES", "SITES", "VARIABLES", "Costs", "Finding", "Remark", "Settings", "bundled",
    "check", "check_settings", "default_recipe", "environment_of", "flashinfer_config", "phrase", "program_of",
    "read_environment", "read_process", "read_processes", "read_text", "reading", "recipe_from_environment",
    "recipes_of", "settled", "sglang_call", "sites", "sites_of", "ways", "with_command",
]  # fmt: skip
