"""Datasets: each image has a sample id, its file's bytes and their sha256, and maybe labelled boxes.

    data = open_dataset("photos/", take=500, seed=0)
    data.name                     # "photos (seeded 500 of 12,345 images)"
    data.read(data.items[0])      # the stored file, bytes

One file per origin (folders.py, zips.py, shards.py, parquet.py, hub_datasets.py, coco.py, synthetic.py), each giving a
`Source`; opening.py chooses among them, selects images and hashes them. archives/ reads tars and zips in bounded
pieces, parquet_pages.py what a parquet file says of its size.
"""

from vaelens.images.datasets.items import Dataset, Item, manifest_sha256
from vaelens.images.datasets.opening import open_dataset

__all__ = ["Dataset", "Item", "manifest_sha256", "open_dataset"]
