"""The process that calls a hook, see `end_hook`: runs a command or posts to a URL, within a time limit.

A program of the standard library alone, so that it starts within a moment. stdin: a JSON object of target, timeout_s
and account. stdout: a sentence if it fails, else nothing.
"""

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

_SHOWN = 200


def is_url(target: str) -> bool:
    """Whether a target is a URL; else it is a command."""
    return target.lower().startswith(("http://", "https://"))


def main() -> None:
    """Do what stdin says."""
    task = json.load(sys.stdin)
    call = _post if is_url(task["target"]) else _run
    if problem := call(task["target"], json.dumps(task["account"]), task["timeout_s"]):
        print(problem)


def _run(command: str, text: str, timeout_s: float) -> str:
    """Run a command by the shell; what went wrong."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, said = process.communicate(text, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and whatever it has started
        return f"the command did not end within {timeout_s:g} s (run.on_end_timeout_s)"
    last = said.strip().splitlines()[-1:]
    return f"exit code {process.returncode}{': ' + last[0][:_SHOWN] if last else ''}" if process.returncode else ""


def _post(url: str, text: str, timeout_s: float) -> str:
    """POST JSON; what went wrong, without the URL, which may be a secret."""
    headers = {"Content-Type": "application/json", "User-Agent": "sfr-batch"}
    host = "the URL"
    signal.alarm(max(1, round(timeout_s)))  # the time limit of the request is for each of its steps
    try:
        parts = urllib.parse.urlsplit(url)
        login, _, place = parts.netloc.rpartition("@")
        host = parts.hostname or host
        if login:
            headers["Authorization"] = f"Basic {base64.b64encode(urllib.parse.unquote(login).encode()).decode()}"
        where = urllib.parse.urlunsplit(parts._replace(netloc=place))
        request = urllib.request.Request(where, text.encode(), headers, method="POST")
        urllib.request.urlopen(request, timeout=timeout_s).close()
    except urllib.error.HTTPError as error:
        return f"{host} answers {error.code} {error.reason}"
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error  # it wraps those of connecting
        if isinstance(reason, TimeoutError):
            return f"{host} does not answer within {timeout_s:g} s (run.on_end_timeout_s)"
        return f"{host} cannot be reached: {reason}"
    except (http.client.HTTPException, ValueError):
        return "the URL is not valid, or what answers is no web server"
    return ""


def _give_up(number: int, frame: object) -> None:
    raise TimeoutError


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _give_up)
    main()
