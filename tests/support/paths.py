"""Where the project's programs and templates are."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
TEMPLATES = PROJECT / "templates"
ENCRYPTOR_TEMPLATE = TEMPLATES / "Deploy-ApplicationEncryptor-Cfn.yaml"
SHARING_TEMPLATE = TEMPLATES / "Deploy-ApplicationSharingBucket-Cfn.yaml"
ENVELOPE_ENCRYPTOR = PROJECT / "encryption/envelope_encryptor.py"
ENVELOPE_DECRYPTOR = PROJECT / "encryption/envelope_decryptor.py"
ARTIFACT_UPLOADER = PROJECT / "encryption/artifact_uploader.py"
SERVER = PROJECT / "enclave/server.py"
CLIENT = PROJECT / "enclave/client.py"
EXTRACT_DECRYPTION_KEY = PROJECT / "scripts/extract_decryption_key.py"
BIND_ENCLAVE_IMAGE = PROJECT / "scripts/bind_enclave_image.py"
