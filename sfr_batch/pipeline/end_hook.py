"""Tells somebody that an attempt has ended: a command or a URL of the config (`run.on_end`) gets its account as JSON.

It changes neither the result nor the exit code. A process of its own does it, `hook_process`, which outlives this one
if a signal ends it. Knows no runs.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from sfr_batch.config.setting_types import REFERENCE
from sfr_batch.config.settings import RunSettings, secret
from sfr_batch.pipeline import hook_process
from sfr_batch.pipeline.display import say

_START_S = 5.0
"""Seconds for the process to start and to end, beside the time that the hook may take."""


class Hook:
    """Whom to tell, maybe nobody."""

    def __init__(self, target: str | None, timeout_s: float) -> None:
        self._target, self._timeout_s = target, timeout_s

    @classmethod
    def of(cls, settings: RunSettings) -> Self:
        """The hook of a config. Raises ConfigError if an environment variable of its URL is not set."""
        target = settings.on_end
        if target and (REFERENCE.fullmatch(target) or hook_process.is_url(target)):
            target = REFERENCE.sub(lambda found: secret(found[0]) or "", target)  # of a command, the shell does it
        return cls(target, settings.on_end_timeout_s)

    def call(self, account: Mapping[str, Any]) -> None:
        """Tell, and wait for it. What goes wrong is a warning. Never raises."""
        if not self._target:
            return
        try:
            process = self._start(account, subprocess.PIPE)
            try:
                said, _ = process.communicate(timeout=self._timeout_s + _START_S)
                said = said or (f"its process ended with exit code {process.returncode}" if process.returncode else "")
            except subprocess.TimeoutExpired:
                process.kill()
                said = f"it did not end within {self._timeout_s:g} s (run.on_end_timeout_s)"
        except OSError as error:
            said = str(error)
        if said:
            say(f"Warning: run.on_end has failed: {said.strip()}. The run is not affected.")

    def leave(self, account: Mapping[str, Any]) -> None:
        """Have somebody else tell, who outlives this process. Never raises."""
        if self._target:
            try:
                self._start(account, subprocess.DEVNULL)
            except OSError as error:
                say(f"Warning: run.on_end has failed: {error}. The run is not affected.")

    def _start(self, account: Mapping[str, Any], output: int) -> "subprocess.Popen[str]":
        # The target may be a secret: it is in the pipe, not in the arguments, which everybody on the machine sees.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(hook_process.__file__))],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # neither Ctrl-C nor the end of the terminal is for it
        )
        assert process.stdin
        task = {"target": self._target, "timeout_s": self._timeout_s, "account": account}
        process.stdin.write(json.dumps(task))  # less than a pipe holds
        process.stdin.close()
        process.stdin = None  # or `communicate` would flush it
        return process
