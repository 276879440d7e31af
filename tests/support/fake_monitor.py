"""An HTTP server in place of a miner's monitor, and the status of a miner that works."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from miner.ledger.writer import LedgerStatus
from miner.monitor.status import Status, ValidatorView
from miner.runtime.gpu_memory import GpuMemory

NOW = 1_762_250_400.0
HOTKEY = "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX"
GIB = 1024**3

OK = Status(
    status="ok",
    pipeline_loaded=True,
    phase="phase3",
    queue=2,
    metagraph_age=12.5,
    last_success=NOW - 40,
    uptime=11_530.0,
    counters={"pulled": 12, "generated": 11, "accepted": 9},
    own_gpus=(GpuMemory("cuda:0", "H100", 5 * GIB, 8 * GIB, 80 * GIB),),
    ledger=LedgerStatus(written=36, waiting=0, dropped=0, failures=0, problem=""),
    validators=(
        ValidatorView(27, HOTKEY, "waiting", NOW + 120, NOW + 90, 0, None),
        ValidatorView(49, HOTKEY[::-1], "idle", None, None, 0, None),
    ),
    config_hashes={"phase3": "cda3fa4a4448"},
    version="0.1.0",
)


class FakeMonitor:
    """An HTTP server in place of the miner's monitor; `content` is its status.json."""

    def __init__(self) -> None:
        self.content = b""
        self.tasks: list[dict[str, Any]] = []
        self.has_answered = threading.Event()
        monitor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path in ("/status.json", "/tasks.json?last=8")
                self.send_response(200)
                self.end_headers()
                is_status = self.path == "/status.json"
                self.wfile.write(monitor.content if is_status else json.dumps({"tasks": monitor.tasks}).encode())
                monitor.has_answered.set()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def show(self, status: Status) -> None:
        """Answer as the monitor's dashboard does."""
        content = status.as_json() | {"now": NOW, "able_to_work": status.able_to_work}
        self.content = json.dumps(content).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def changed(**changes: Any) -> Status:
    return Status(**{**vars(OK), **changes})
