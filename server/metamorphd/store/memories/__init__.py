"""Operations on memories."""
