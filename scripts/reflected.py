"""Descriptors that reflection serves: `python -m scripts.reflected < FileDescriptorSet > FileDescriptorSet`.

The files of the contract as they are written, with protovalidate's rules and the comments before each part. Generated
code has no comments, and that of the clients no import of those rules. Places in the files that have no comment, and
files of others, are left out: most of what buf knows.
"""

import sys

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from scripts.client_descriptors import shorten

OURS = "metamorph/"


def reflected(files: FileDescriptorSet) -> FileDescriptorSet:
    """Returns the files of the contract, with leading comments and no others."""
    kept = FileDescriptorSet(file=[_standard(file) for file in files.file if file.name.startswith(OURS)])
    for file in kept.file:
        shorten(file.message_type)
        _keep_leading_comments(file)
    return kept


def _standard(file: FileDescriptorProto) -> FileDescriptorProto:
    """Returns a file without what buf adds to those of its images. Options that nobody has loaded stay, within."""
    return FileDescriptorProto(**{field.name: value for field, value in file.ListFields()})


def _keep_leading_comments(file: FileDescriptorProto) -> None:
    places = [place for place in file.source_code_info.location if place.leading_comments]
    file.ClearField("source_code_info")
    for place in places:
        file.source_code_info.location.add(path=place.path, span=place.span, leading_comments=place.leading_comments)


if __name__ == "__main__":
    files = reflected(FileDescriptorSet.FromString(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(files.SerializeToString(deterministic=True))
