"""An :class:`Architecture` as torch computes it, block by block, every linear map's input in sight."""
