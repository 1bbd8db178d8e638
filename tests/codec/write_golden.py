"""Write the golden records of the current version, from the project's folder:

    PYTHONPATH=.:tests:tests/codec python tests/codec/write_golden.py

Run it once for a new version or scheme, and never over records that were ever released.
"""

from __future__ import annotations

import json

from made_pictures import photograph
from test_schemes import BOOKS, BUDGETS, GOLDEN, learnt_record, record

from archiver.codec import lossless, schemes
from archiver.codec.explain import explain
from archiver.codec.picture import Picture
from archiver.codec.record import Scheme

written = [record(scheme, number, (16, 11)) for number, scheme in enumerate(BUDGETS)]
written += [record(scheme, 7, (16, 11), guided=True) for scheme in BUDGETS]
written.append(lossless.compose(Picture(photograph(6, 256, 176), 4000, 2750)))

files = [(coded, f"{coded.scheme.label}-v{coded.version}") for coded in written]
files.append((record(Scheme.SEACOM, 8, (16, 11), guided=True, told_colours=True), "seacom-v3-colours"))
files.append((learnt_record(Scheme.COCLICO, 9, grid=(16, 11)), "coclico-v4"))

for coded, name in files:
    stem = GOLDEN / name
    if stem.with_suffix(".rec").exists():
        continue
    found = schemes.material(coded, BOOKS[768])
    facts = {
        "scheme": coded.scheme.label,
        "parts": [part.text for part in explain(coded).parts],
        "labels": None if found.labels is None else found.labels.tolist(),
        "colours": None if found.colours is None else found.colours.tolist(),
        "embedding": None if found.embedding is None else [round(float(value), 6) for value in found.embedding],
        "attention": None if found.attention is None else found.attention.tolist(),
    }
    stem.with_suffix(".rec").write_bytes(coded.to_bytes())
    stem.with_suffix(".json").write_text(json.dumps(facts) + "\n")
