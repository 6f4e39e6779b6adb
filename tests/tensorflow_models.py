"""Toy models of TensorFlow, made in its own environment.

`python tests/tensorflow_models.py FOLDER`, run by that environment's Python, writes them; nothing
here imports TensorFlow otherwise. The classifier is x[N,8] -> probs[N,3] by Dense(16, relu) and
Dense(3, softmax); weights.npz holds its weights as w0, b0, w1, b1.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FEATURES, HIDDEN, CLASSES = 8, 16, 3
LOCAL = Path("/tmp/tfvenv/bin/python")  # where no variable names one
MARK = "executed.txt"  # what a hostile model writes when it is run


def tensorflow_python() -> Path | None:
    """The Python of TensorFlow's environment on this machine; None where there is none."""
    named = os.environ.get("SOMMELIER_TF_PYTHON")
    path = Path(named) if named else LOCAL
    path = path / "bin" / "python" if path.is_dir() else path
    return path if path.exists() else None


def build(python: Path, folder: Path) -> Path:
    """The folder with classifier/ (SavedModel), classifier.keras, .h5, .tflite, weights.npz, and
    what main() writes besides."""
    command = [str(python), str(Path(__file__).resolve()), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def main(folder: Path) -> None:
    """Writes all models. TensorFlow is imported here."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    import keras
    import numpy as np
    import tensorflow as tf

    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((FEATURES,), name="x"),
            keras.layers.Dense(HIDDEN, activation="relu", bias_initializer="random_normal"),
            keras.layers.Dense(CLASSES, activation="softmax", bias_initializer="random_normal"),
        ]
    )
    model.save(folder / "classifier.keras")
    model.save(folder / "classifier.h5")
    model.export(folder / "classifier", verbose=False)
    lite = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    (folder / "classifier.tflite").write_bytes(lite)
    names = ("w0", "b0", "w1", "b1")
    np.savez(folder / "weights.npz", **dict(zip(names, model.get_weights(), strict=True)))

    inner = keras.layers.Lambda(lambda values: -values, output_shape=(FEATURES,))
    sly = keras.Sequential([keras.Input((FEATURES,), name="x"), inner])
    sly.save(folder / "lambda.keras")
    sly.save(folder / "lambda.h5")
    model.save_weights(folder / "bare.weights.h5")
    _modules(folder)


def _modules(folder: Path) -> None:
    """SavedModels of plain modules: several signatures, one that writes a file, one of text."""
    import tensorflow as tf

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.float32, name="image")])
        def sizes(self, image):
            return {"mean": tf.reduce_mean(image, axis=[1, 2])}

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def doubled(self, x):
            return {"double": 2.0 * x, "root": tf.sqrt(x)}

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def writing(self, x):
            tf.io.write_file(str(folder / MARK), "I ran")
            return {"y": x + 1.0}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def lengths(self, text):
            return {"y": tf.strings.length(text)}

    module = Module()
    save = tf.saved_model.save
    save(module, str(folder / "writer"), {"serving_default": module.writing})
    save(tf.Module(), str(folder / "silent"))

    class Plain(tf.Module):
        sizes, doubled = Module.sizes, Module.doubled

    plain = Plain()
    save(plain, str(folder / "several"), {"sizes": plain.sizes, "doubled": plain.doubled})

    class Text(tf.Module):
        lengths = Module.lengths

    text = Text()
    save(text, str(folder / "text"), {"serving_default": text.lengths})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
