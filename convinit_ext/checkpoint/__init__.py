"""What models and files hold: fingerprints, verification, and saving without memory."""

from convinit_ext.checkpoint._fingerprint import fingerprint, fingerprints
from convinit_ext.checkpoint._layout import parsed_size
from convinit_ext.checkpoint._safetensors import open_weights
from convinit_ext.checkpoint._save import save_model
from convinit_ext.checkpoint._verification import Verification
from convinit_ext.checkpoint._verify import verify
