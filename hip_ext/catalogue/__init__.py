"""What there is to use: heads that ship or lie on the Hub, and the base models that heads belong to.

    registry/checkpoints.yaml   heads                     heads
    registry/backbones.yaml     backbones, released models and their licences     bases
    $HIP_EXT_REGISTRY           a user's own folder, with checkpoints.yaml, models.yaml or both

Everything is read strictly: an entry that is not as it should be is one line that says where and why.
"""

from hip_ext.catalogue.bases import Base, Licence
from hip_ext.catalogue.heads import Head
from hip_ext.catalogue.reading import VARIABLE, base_models, heads, licences

__all__ = ["VARIABLE", "Base", "Head", "Licence", "base_models", "heads", "licences"]
