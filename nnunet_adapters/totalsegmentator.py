"""Structures that are numbered as TotalSegmentator numbers them: of its tasks `total` (CT, version 2) and `total_mr`.

The numbers are that project's own (totalsegmentator/map_to_binary.py, Apache-2.0); its test files' masks come with
nothing else.
"""

import re

NUMBERED = re.compile("totalseg_([0-9]{3})")


def _numbered(name: str, first: int, last: int) -> list[str]:
    step = 1 if first <= last else -1
    return [f"{name}{i}" for i in range(first, last + step, step)]


def _paired(*names: str, first: str = "left", second: str = "right") -> list[str]:
    return [f"{name}_{side}" for name in names for side in (first, second)]


ABDOMEN = [
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas"),
    *_paired("adrenal_gland", first="right", second="left"),
]
MUSCLES = _paired("gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas")
CT = [
    *ABDOMEN,
    *("lung_upper_lobe_left", "lung_lower_lobe_left"),
    *("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
    *("esophagus", "trachea", "thyroid_gland", "small_bowel", "duodenum", "colon", "urinary_bladder", "prostate"),
    *_paired("kidney_cyst"),
    *("sacrum", "vertebrae_S1"),
    *_numbered("vertebrae_L", 5, 1),
    *_numbered("vertebrae_T", 12, 1),
    *_numbered("vertebrae_C", 7, 1),
    *("heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk"),
    *_paired("subclavian_artery", "common_carotid_artery", first="right", second="left"),
    *_paired("brachiocephalic_vein"),
    *("atrial_appendage_left", "superior_vena_cava", "inferior_vena_cava", "portal_vein_and_splenic_vein"),
    *_paired("iliac_artery", "iliac_vena", "humerus", "scapula", "clavicula", "femur", "hip"),
    "spinal_cord",
    *MUSCLES,
    *("brain", "skull"),
    *_numbered("rib_left_", 1, 12),
    *_numbered("rib_right_", 1, 12),
    *("sternum", "costal_cartilages"),
]
MR = [
    *ABDOMEN,
    *("lung_left", "lung_right", "esophagus", "small_bowel", "duodenum", "colon", "urinary_bladder", "prostate"),
    *("sacrum", "vertebrae", "intervertebral_discs", "spinal_cord", "heart", "aorta"),
    *("inferior_vena_cava", "portal_vein_and_splenic_vein"),
    *_paired("iliac_artery", "iliac_vena", "humerus", "scapula", "clavicula", "femur", "hip"),
    *MUSCLES,
    "brain",
]


def structure(name: str, ct: bool) -> str:
    """What `totalseg_005` stands for; any other name as it is."""
    found, table = NUMBERED.fullmatch(name), CT if ct else MR
    return table[int(found[1]) - 1] if found and 0 < int(found[1]) <= len(table) else name
