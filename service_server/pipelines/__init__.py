"""Operations on pipelines other than syncs."""
