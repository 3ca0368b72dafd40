"""Validates the bills of materials in folders; see ci/validate-sboms. Exit code 1 where one is not valid."""

import json
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.parser.error import SPDXParsingError
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document


def cyclonedx(text):
    """Messages on a CycloneDX document."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return [str(error)] if error else []


def graph(document):
    """Every reference in the graph must be a component, and each must be there once."""
    parts = [document["metadata"]["component"], *document["components"]]
    references = [part["bom-ref"] for part in parts]
    known = set(references)
    messages = [f"{reference} is there twice" for reference in known if references.count(reference) > 1]
    named = {edge["ref"] for edge in document["dependencies"]}
    named |= {other for edge in document["dependencies"] for other in edge.get("dependsOn", [])}
    return messages + [f"{reference} is in the graph and is no component" for reference in named ^ known]


def purls(document):
    """Package URLs must be canonical: what the reference implementation makes of them is what is there."""
    for component in document["components"]:
        if text := component.get("purl"):
            canonical = PackageURL.from_string(text).to_string()
            if canonical != text:
                yield f"{text} is not canonical: {canonical}"


def spdx(document):
    """Messages on an SPDX document."""
    try:
        parsed = JsonLikeDictParser().parse(document)
    except SPDXParsingError as error:
        return error.get_messages()
    return [message.validation_message for message in validate_full_spdx_document(parsed)]


def same(cyclonedx_document, spdx_document):
    """Both must speak of the same packages with the same digests."""
    def pairs_of(parts, digest):
        return {(part["name"], digest(part)) for part in parts}
    ours = pairs_of(
        [cyclonedx_document["metadata"]["component"], *cyclonedx_document["components"]],
        lambda part: part.get("hashes", [{}])[0].get("content"),
    )
    theirs = pairs_of(spdx_document["packages"], lambda part: part.get("checksums", [{}])[0].get("checksumValue"))
    return [f"{name} is in one document only, or with two digests" for name, _ in sorted(ours ^ theirs, key=str)]


def folder(path):
    """All messages on a folder, and what was found."""
    text = (path / "sbom.cdx.json").read_text()
    bill = json.loads(text)
    other = json.loads((path / "sbom.spdx.json").read_text())
    messages = [*cyclonedx(text), *graph(bill), *purls(bill), *spdx(other), *same(bill, other)]
    libraries = [part for part in bill["components"] if part["type"] == "library"]
    if not libraries:
        messages.append("no package is listed")
    known = sum("licenses" in part for part in libraries)
    hashed = sum("hashes" in part for part in libraries)
    return messages, f"{len(libraries)} packages, {known} with a licence, {hashed} with the digest of the .deb"


failed = False
for argument in sys.argv[1:]:
    found, summary = folder(Path(argument))
    for message in found:
        print(f"{argument}: {message}", file=sys.stderr)
    print(f"{argument}: {summary}; {'not valid' if found else 'valid'}")
    failed |= bool(found)
sys.exit(failed)
