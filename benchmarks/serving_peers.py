"""Other servers of the same ONNX file: MLServer and LitServe, each in an environment of its own.

Both run ONNX Runtime in this interpreter's version, one thread without spinning, as ours does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import environment

MLSERVER_MODEL = """
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class OnnxModel(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        uri = self.settings.parameters.uri
        self.session = onnxruntime.InferenceSession(uri, options)
        self.given = self.session.get_inputs()[0].name
        self.asked = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        found = self.session.run(self.asked, {self.given: x})
        outputs = [NumpyCodec.encode_output(n, v) for n, v in zip(self.asked, found)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""

LITSERVE_PROGRAM = """
import sys
import litserve
import numpy as np
import onnxruntime


class OnnxApi(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)
        self.given = self.session.get_inputs()[0].name

    def decode_request(self, request):
        given = request["inputs"][0]
        return np.array(given["data"], np.float32).reshape(given["shape"])

    def predict(self, x):
        return self.session.run(None, {self.given: x})[0]

    def encode_response(self, output):
        return {"outputs": output.ravel().tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(OnnxApi(), accelerator="cpu")
    where = {"host": "127.0.0.1", "port": int(sys.argv[2])}
    server.run(**where, log_level="error", generate_client_file=False)
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server: what it takes to install it, and the paths it answers at."""

    name: str
    packages: tuple[str, ...]
    infer: str
    ready: str

    def command(self, python: Path, folder: Path, model: Path, port: int) -> list[str]:
        """How to start it. folder : for the files it wants, of this run only."""
        if self.name == "LitServe":
            program = folder / "litserve_program.py"
            program.write_text(LITSERVE_PROGRAM)
            return [str(python), str(program), str(model), str(port)]
        (folder / "onnx_model.py").write_text(MLSERVER_MODEL)
        # parallel_workers=1, its default, does not start at all with uvloop 0.23 (runtime.md 2)
        settings = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
        settings |= {"host": "127.0.0.1", "parallel_workers": 0, "debug": False}
        (folder / "settings.json").write_text(json.dumps(settings))
        parameters = {"uri": str(model)}
        told = {"name": "model", "implementation": "onnx_model.OnnxModel", "parameters": parameters}
        (folder / "model-settings.json").write_text(json.dumps(told))
        return [str(python.with_name("mlserver")), "start", str(folder)]


PEERS = (
    Peer("MLServer", ("mlserver==1.7.1",), "/v2/models/model/infer", "/v2/models/model/ready"),
    Peer("LitServe", ("litserve==0.2.19",), "/predict", "/health"),
)


def python_of(peer: Peer) -> Path | str:
    """The interpreter of the peer's environment, with our ONNX Runtime; or why there is none."""
    import onnxruntime

    return environment((*peer.packages, f"onnxruntime=={onnxruntime.__version__}", "numpy"))
