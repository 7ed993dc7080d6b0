"""The process that holds a session with a device's RPC server, so that it can be ended.

A request is a line of JSON on stdin: {"address": [host, port], "matchkey": ...,
"timeout_secs": ..., "program": path, "launcher": path, "options": [word, ...]}. Answers are lines
on stdout: {"connected": true} once the server has answered, then {"code": ..., "results": ...,
"messages": ...} or {"lost": why}; or {"stale": why} where the matchkey has expired. TVM's client
blocks for good on a server that hangs; who reads the answers kills this process then.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(fields: dict[str, Any]) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    from tvm import rpc

    answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            host, port = request["address"]
            session = rpc.connect(
                host, port, request["matchkey"], session_timeout=request["timeout_secs"]
            )
            answer({"connected": True})
            answer(_run(session, request))
            del session
        except Exception as error:  # TVM's errors share no class but this
            why = str(error).strip().splitlines()[-1][:300]
            answer({"stale" if "cannot find server that matches key" in why else "lost": why})


def _run(session: Any, request: dict[str, Any]) -> dict[str, Any]:
    session.upload(request["program"], "measure")
    session.upload(bytearray("\n".join(request["options"]).encode()), "options")
    session.upload(request["launcher"], "launcher.so")
    code = int(session.load_module("launcher.so")["athanor_measure"]())
    texts = {}
    for name, file in (("results", "results.jsonl"), ("messages", "messages")):
        found = code in (0, 1) or name == "messages"
        texts[name] = bytes(session.download(file)).decode(errors="replace") if found else ""
    return {"code": code, **texts}


if __name__ == "__main__":
    main()
