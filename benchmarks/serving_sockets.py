"""The least that a server in one Python process can do: receive, run the model, send.

    python -m benchmarks.serving_sockets MODEL PORT

No HTTP is read: every request of a connection is as long as its first one, its last bytes are the
tensor, and the answer is the bytes of the output behind a head that never changes. What a real
server has less than this is its own work; what this has less than ONNX Runtime alone is the
system's, whose two calls a request cost 10 to 35 us.
"""

from __future__ import annotations

import re
import select
import socket
import sys
from collections.abc import Callable

import numpy as np
import onnxruntime

MOST = 1 << 18  # bytes received at once


def main() -> None:
    path, port = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options)
    given = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    asked = [output.name for output in session.get_outputs()]
    size = 4 * int(np.prod(shape))

    def answer(request: bytes) -> bytes:
        if len(request) < size:
            return b""  # whether it is ready
        tensor = np.frombuffer(request, np.float32, offset=len(request) - size).reshape(shape)
        found: bytes = session.run(asked, {given.name: tensor})[0].tobytes()
        return found

    with socket.create_server(("127.0.0.1", int(port)), backlog=64) as listener:
        _serve(listener, answer)


def _serve(listener: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    poll, connections = select.epoll(), dict[int, _Connection]()
    poll.register(listener, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                connection = _Connection(listener.accept()[0])
                connections[connection.socket.fileno()] = connection
                poll.register(connection.socket, select.EPOLLIN)
                continue
            request = connections[number].received()
            if request is None:
                poll.unregister(number)
                connections.pop(number).socket.close()
            elif request:
                body = answer(request)
                head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
                connections[number].socket.send(head + body)


class _Connection:
    def __init__(self, accepted: socket.socket) -> None:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self.part, self.size = accepted, b"", 0

    def received(self) -> bytes | None:
        """A whole request; b'' as long as it is not; None at the end."""
        try:
            part = self.socket.recv(MOST)
        except ConnectionError:
            return None
        if not part:
            return None
        self.part = self.part + part if self.part else part
        if not self.size:
            head = self.part.find(b"\r\n\r\n")
            if head < 0:
                return b""
            told = re.search(rb"content-length: *(\d+)", self.part[:head], re.IGNORECASE)
            self.size = head + 4 + (int(told[1]) if told else 0)
        if len(self.part) < self.size:
            return b""
        whole, self.part = self.part, b""
        return whole


if __name__ == "__main__":
    main()
