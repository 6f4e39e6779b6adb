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
from typing import Any

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
    _astray(folder)
    _modules(folder)
    _hostile_calls(folder)
    _hostile_loading(folder)
    _hostile_v1(folder / "v1")
    _with_table(folder / "table")


def _astray(folder: Path) -> None:
    """Keras files that are not what they seem: both.h5 is a zip archive too; of the weights of
    outside.h5 and outside.keras some are in another file, of linked.h5 one is a link."""
    import shutil
    import zipfile

    import h5py

    shutil.copy(folder / "lambda.h5", folder / "both.h5")
    with zipfile.ZipFile(folder / "both.h5", "a") as archive:
        archive.writestr("config.json", "{}")

    def outside(path: Path) -> None:
        with h5py.File(path, "a") as content:
            storage = [(str(folder / "weights.npz"), 0, 64)]
            content.create_dataset("more", (16,), "f4", external=storage)

    shutil.copy(folder / "classifier.h5", folder / "outside.h5")
    outside(folder / "outside.h5")
    with zipfile.ZipFile(folder / "classifier.keras") as archive:
        archive.extractall(folder / "parts")
    outside(folder / "parts" / "model.weights.h5")
    with zipfile.ZipFile(folder / "outside.keras", "w") as archive:
        for part in (folder / "parts").iterdir():
            archive.write(part, part.name)
    shutil.copy(folder / "classifier.h5", folder / "linked.h5")
    with h5py.File(folder / "linked.h5", "a") as content:
        content["more"] = h5py.ExternalLink(str(folder / "classifier.h5"), "/model_weights")


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


def _writing(path: Path) -> Any:
    """Writes a checkpoint, where it is called in a graph."""
    import tensorflow as tf

    return tf.raw_ops.SaveV2(
        prefix=tf.constant(str(path)),
        tensor_names=["a"],
        shape_and_slices=[""],
        tensors=[tf.ones([1])],
    )


def _hostile_calls(folder: Path) -> None:
    """Models that write files when they are called: the SavedModels saver/, and inner/ in a
    function that a loop calls; flex.tflite by an operator of TensorFlow, hidden.tflite by one that
    is labelled as another."""
    import tensorflow as tf

    spec = [tf.TensorSpec([None, 4], tf.float32, name="x")]

    class Saver(tf.Module):
        @tf.function(input_signature=spec)
        def run(self, x):
            with tf.control_dependencies([_writing(folder / MARK)]):
                return {"y": x + 1.0}

    class Inner(tf.Module):
        @tf.function(input_signature=spec)
        def write(self, x):
            with tf.control_dependencies([_writing(folder / MARK)]):
                return tf.identity(x)

        @tf.function(input_signature=spec)
        def run(self, x):
            steps = tf.while_loop(lambda i: i < 1.0, lambda i: i + self.write(x)[0, 0], [0.0])
            return {"y": x + steps[0]}

    for name, module in (("saver", Saver()), ("inner", Inner())):
        tf.saved_model.save(module, str(folder / name), {"serving_default": module.run})

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32, name="x")])
    def lite(x):
        tf.io.write_file(str(folder / MARK), "I ran")
        return {"y": x + 1.0}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([lite.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    content = converter.convert()
    (folder / "flex.tflite").write_bytes(content)
    label, other = b"FlexWriteFile", b"FlexZerosLike"  # the options name what runs
    assert content.count(label) == 1
    (folder / "hidden.tflite").write_bytes(content.replace(label, other))


def _hostile_loading(folder: Path) -> None:
    """SavedModels that write files when they are loaded: loader/ to initialise a table, private/
    through a method of its object graph."""
    import tensorflow as tf

    spec = [tf.TensorSpec([None, 4], tf.float32, name="x")]

    class Private(tf.Module):
        @tf.function(input_signature=[])
        def harmless(self):
            with tf.control_dependencies([_writing(folder / MARK)]):
                return tf.constant(1.0)

        @tf.function(input_signature=spec)
        def run(self, x):
            return {"y": x + 1.0}

    class Resource(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self):
            return tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.int64)

        def _initialize(self):
            tf.io.write_file(str(folder / "made" / MARK), "I ran")

    class Loader(tf.Module):
        def __init__(self):
            self.resource = Resource()

        @tf.function(input_signature=spec)
        def run(self, x):
            size = tf.raw_ops.LookupTableSizeV2(table_handle=self.resource.resource_handle)
            return {"y": x + tf.cast(size, tf.float32)}

    for name, module in (("loader", Loader()), ("private", Private())):
        tf.saved_model.save(module, str(folder / name), {"serving_default": module.run})
    _rename(folder / "private" / "saved_model.pb", "harmless")


def _rename(path: Path, name: str) -> None:
    """Gives the child of that name of the root a name that the loader calls."""
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    content.ParseFromString(path.read_bytes())
    (edge,) = (
        edge
        for edge in content.meta_graphs[0].object_graph_def.nodes[0].children
        if edge.local_name == name
    )
    edge.local_name = "_gather_saveables_for_checkpoint"
    path.write_bytes(content.SerializeToString())


def _hostile_v1(folder: Path) -> None:
    """SavedModels of TensorFlow 1: fine/ computes, with a variable; init/ and table/ write a file
    when they are loaded, called/ when it is called."""
    import tensorflow.compat.v1 as tf1

    for name in ("fine", "init", "table", "called"):
        mark = str(folder / MARK)
        with tf1.Graph().as_default(), tf1.Session() as session:
            x = tf1.placeholder(tf1.float32, [None, 4], name="x")
            weight = tf1.get_variable("w", initializer=2.0)
            write = tf1.io.write_file(mark, "I ran")
            with tf1.control_dependencies([write] if name == "called" else []):
                y = x * weight
            if name == "table":
                tf1.add_to_collection(tf1.GraphKeys.TABLE_INITIALIZERS, write)
            session.run(weight.initializer)
            builder = tf1.saved_model.Builder(str(folder / name))
            signature = tf1.saved_model.predict_signature_def({"x": x}, {"y": y})
            builder.add_meta_graph_and_variables(
                session,
                ["serve"],
                {"serving_default": signature},
                main_op=write if name == "init" else None,
            )
            builder.save()
    (folder / MARK).unlink(missing_ok=True)


def _with_table(folder: Path) -> None:
    """A SavedModel that looks ids up in a table, whose keys are in the graph."""
    import tensorflow as tf

    class Table(tf.Module):
        def __init__(self):
            keys, values = tf.constant([1, 2, 3], tf.int64), tf.constant([10, 20, 30], tf.int64)
            content = tf.lookup.KeyValueTensorInitializer(keys, values)
            self.table = tf.lookup.StaticHashTable(content, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="x")])
        def run(self, x):
            return {"y": self.table.lookup(x)}

    table = Table()
    tf.saved_model.save(table, str(folder), {"serving_default": table.run})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
