"""W2SD as ComfyUI nodes; `w2sd export-nodes FOLDER` writes the folder that ComfyUI installs."""
