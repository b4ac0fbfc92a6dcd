"""Mean Teacher: ``nnUNetv2_train ID CONFIG FOLD -tr nnUNetTrainerMeanTeacher``."""

from __future__ import annotations

from functools import partial
from typing import Literal

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ssl.inference.prompts import restrict_to_wished_task
from nnunet_ssl.methods.mean_teacher import MeanTeacher, MeanTeacherConfig
from nnunet_ssl.nn.ema import teacher_and_student
from nnunet_ssl.nn.multi_decoder import for_inference
from nnunet_ssl.training.adapter import SSLTrainer
from nnunet_ssl.training.networks import planned_unet


def two_networks(
    inference: Literal["teacher", "student"],
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
) -> nn.Module:
    """In training a teacher and a student, ``inference`` under the planned names; else that one alone."""

    def planned() -> nn.Module:
        return planned_unet(
            configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )

    network = (
        teacher_and_student(planned(), planned(), inference)
        if enable_deep_supervision
        else for_inference(planned())  # nnU-Net's predictor
    )
    return restrict_to_wished_task(network, plans_manager.plans, num_output_channels)


class nnUNetTrainerMeanTeacher(SSLTrainer):
    """Mean Teacher (Tarvainen and Valpola, NeurIPS 2017); the teacher is the result."""

    method_config_class = MeanTeacherConfig
    build_network_architecture = staticmethod(partial(two_networks, "teacher"))

    def build_method(self) -> MeanTeacher:
        """On nnU-Net's loss."""
        return MeanTeacher(self.method_config, self.loss, self.space, self.enable_deep_supervision)
