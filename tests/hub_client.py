"""A process with huggingface_hub's client, whose endpoint is fixed when it is imported: it runs code line by line.

Every line of stdin is a JSON object with "code"; every line of stdout one with "result" (what the code has put into
`result`) or with "error" and "message". The process is started once, since imports are what takes the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Client:
    """The other end: starts the process, sends code, gives what it has found.

    Args:
        endpoint: of the Hub.
        home: of its cache and tokens.
        environment: more variables of the process.
    """

    def __init__(self, endpoint: str, home: Path, **environment: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "stderr.txt"
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=client_environment(endpoint, home, **environment),
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
        )

    def send(self, code: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"code": code}) + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line)

    def run(self, code: str) -> dict[str, Any]:
        self.send(code)
        return self.receive()

    def result(self, code: str) -> Any:
        found = self.run(code)
        assert "error" not in found, found
        return found["result"]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def client_environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    """Variables of a process that knows this Hub alone, and no token; without Xet, which is no plain HTTP."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("HF_")}
    kept |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return kept | {"PYTHONPATH": os.pathsep.join(sys.path), "NO_PROXY": "127.0.0.1", "XDG_CACHE_HOME": str(home)} | more


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        names: dict[str, Any] = {"result": None}
        try:
            exec(json.loads(line)["code"], names)
            answer = {"result": names["result"]}
        except Exception as error:
            answer = {"error": [one.__name__ for one in type(error).__mro__], "message": str(error)}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
