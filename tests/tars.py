"""WebDataset tars for tests."""

import io
import tarfile


def tar(path, samples):
    """Writes pairs of name and bytes into a tar; returns its path."""
    with tarfile.open(path, "w") as archive:
        for name, content in samples:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path
