"""Write small Parquet files, read their splits, and count what is read."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import pyarrow as pa
from pyarrow import fs

SLOT = 2**16


def table(start, rows, width=4):
    """``id``, a list column ``x`` of a fixed length, and a text."""
    numbers = np.arange(start, start + rows)
    x = pa.ListArray.from_arrays(
        np.arange(0, (rows + 1) * width, width, dtype=np.int32), np.repeat(numbers, width).astype(np.float32)
    )
    return pa.table({"id": numbers, "x": x, "name": [f"n{i}" for i in numbers]})


def read(description, skip=0, cores=1):
    """Everything, split by split, as the tasks would read it."""
    splits, reader = description.plan(cores)
    reader, splits = pickle.loads(pickle.dumps((reader, splits)))
    return [[batch for batch in reader.batches(split, SLOT, skip)] for split in splits]


class Counting(fs.FileSystemHandler):
    """The local file system; counts how often each file is opened."""

    def __init__(self):
        self.opened = collections.Counter()
        self.local = fs.LocalFileSystem()

    def open_input_file(self, path):
        self.opened[path] += 1
        return pa.PythonFile(open(path, "rb"), mode="r")

    def open_input_stream(self, path):
        return self.open_input_file(path)

    def get_file_info(self, paths):
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector):
        return self.local.get_file_info(selector)

    def get_type_name(self):
        return "counting"

    def normalize_path(self, path):
        return path

    def _no(self, *_):
        raise NotImplementedError

    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = delete_root_dir_contents = move = _no
    open_append_stream = open_output_stream = _no


def ids(read):
    return [i for split in read for batch in split for i in batch["id"].to_pylist()]
