"""AWS services as the verbs use them: sessions, stacks, change sets, builds, stored artifacts."""
