"""Operations on turns."""
