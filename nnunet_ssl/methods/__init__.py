"""The papers, one readable file each.

``CONFIGS`` lists the options of every method: a plans file may hold options of several, and an option that no
method knows is an error.
"""

from nnunet_ssl.methods.bcp import BCPConfig
from nnunet_ssl.methods.dbisl import DBiSLConfig
from nnunet_ssl.methods.mean_teacher import MeanTeacherConfig
from nnunet_ssl.methods.pick import PICKConfig
from nnunet_ssl.methods.propl import ProPLConfig
from nnunet_ssl.methods.supervised import SupervisedConfig
from nnunet_ssl.methods.versemi import UniSeMiConfig, VerSemiConfig

CONFIGS: tuple[type, ...] = (
    SupervisedConfig,
    UniSeMiConfig,
    VerSemiConfig,
    PICKConfig,
    DBiSLConfig,
    ProPLConfig,
    MeanTeacherConfig,
    BCPConfig,
)
