"""The methods of merging, one file each, with the paper that each follows."""
