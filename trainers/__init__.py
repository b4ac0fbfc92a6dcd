"""Trainers for nnU-Net v2: ``nnUNetv2_train DATASET CONFIGURATION FOLD -tr NAME``.

| name | what it is |
|---|---|
| ``nnUNetTrainerSSLSupervised`` | the same training loop on the labelled cases alone: the fair baseline |
| ``nnUNetTrainerVerSemi`` | VerSemi: many datasets, one network, unlabelled scans of unknown task |
| ``nnUNetTrainerUniSeMi`` | UniSeMi: VerSemi without the auxiliary prompt constraint |
| ``nnUNetTrainerPICK`` | PICK: predicted targets are masked, rebuilt and segmented again |
| ``nnUNetTrainerDBiSL`` | DBiSL: segmentation and signed distance, tied by transforms both ways |
| ``nnUNetTrainerProPL`` | ProPL: sentences as prompts, calibrated pseudo-labels, several tasks at once |
| ``nnUNetTrainerMeanTeacher`` | Mean Teacher: to compare with; the teacher is the result |
| ``nnUNetTrainerBCP`` | bidirectional copy-paste: to compare with |

Every file here names its paper and its command and hands on one class of ``nnunet_ssl.training``, where the
code is. nnU-Net imports the files of this folder under bare names and anew at each search. So a file imports
its own trainer only (a broken one would hide the others) and defines no class (it would not pickle).
"""
