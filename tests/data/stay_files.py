"""Stays in intensive care as PhysioNet publishes them, made in the tests."""

import io
import random
import tarfile

HEAD = "Time,Parameter,Value\n"
OUTCOMES = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n"


def stay(number, seed=0):
    """The text of a stay: descriptors, and four parameters at irregular times; the sick have a fast pulse."""
    draw = random.Random(1000 * seed + number)
    sick = number % 4 == 0
    lines = [f"00:00,RecordID,{number}", f"00:00,Age,{30 + number % 50}", "00:00,Gender,1", "00:00,Height,-1"]
    lines += ["00:00,ICUType,3", "00:00,Weight,-1"]
    for minute in sorted(draw.sample(range(2881), 20)):
        name, mean = draw.choice([("HR", 80 + 30 * sick), ("Temp", 37), ("NISysABP", 120), ("GCS", 14)])
        lines.append(f"{minute // 60:02}:{minute % 60:02},{name},{round(mean + draw.gauss(0, 1), 2)}")
    return HEAD + "\n".join(lines) + "\n"


def write_stays(root, part="a", count=60, packed=False):
    """``count`` stays of a set under the data root ``root``, a quarter of which died; returns that."""
    folder = root / "physionet2012"
    folder.mkdir(parents=True, exist_ok=True)
    first = 1000 if part == "a" else 5000
    texts = {f"set-{part}/{number}.txt": stay(number) for number in range(first, first + count)}
    died = (f"{number},5,2,7,-1,{int(number % 4 == 0)}" for number in range(first, first + count))
    (folder / f"Outcomes-{part}.txt").write_text(OUTCOMES + "\n".join(died) + "\n")
    if packed:
        with tarfile.open(folder / f"set-{part}.tar.gz", "w:gz") as archive:
            for name, text in texts.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        return root
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root
