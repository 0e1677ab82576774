"""The life of an artifact on two real AWS accounts: what AWS did, beside what is expected of it."""
