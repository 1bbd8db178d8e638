"""Loading a folder by a class of diffusers or transformers, quietly and strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers.utils.logging
import transformers.utils.logging

from archiver.errors import ProfileInvalid

# A daemon's log is no place for progress bars and for advice to programmers; what matters is raised below.
_LOGGING: tuple[Any, Any] = (diffusers.utils.logging, transformers.utils.logging)
for _library in _LOGGING:
    _library.set_verbosity_error()
    _library.disable_progress_bar()


def load(kind: Any, folder: Path, **keys: Any) -> Any:
    """The network in a folder, from safetensors only, every weight of it: the libraries would make up what is missing.

    Raises ProfileInvalid.
    """
    try:
        network, told = kind.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True, **keys
        )
    except (OSError, ValueError, RuntimeError, TypeError) as problem:
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        raise ProfileInvalid(path=folder, problem=lines[0]) from problem
    if lacking := [*told["missing_keys"], *told["mismatched_keys"]]:
        raise ProfileInvalid(
            path=folder, problem=f"{len(lacking)} weights are missing or of another shape: {lacking[0]}"
        )
    return network
