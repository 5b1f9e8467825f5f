//! What is in an image: an SPDX document of its packages.
//!
//! Specification: SPDX 2.3, in JSON; package URLs by the purl specification.

use image_core::{Digest, Timestamp};
use layer_store::View;
use serde_json::{Value, json};

use super::packages::{self, Package, PackageKind, Release};
use crate::engine::{Engine, Image};
use crate::error::Result;

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
const UNKNOWN: &str = "NOASSERTION";

/// Reads the databases of `image`, whose manifest has the digest `manifest`.
pub(super) fn predicate(engine: &Engine, image: &Image, manifest: &Digest) -> Result<Value> {
    let view: View = engine.view(image)?;
    let packages = packages::packages(engine.store(), &view)?;
    let release = packages::release(engine.store(), &view)?;
    // The document has to say when it was made. That is when the image was, else equal images had unequal documents.
    let created = image.config().created.unwrap_or(Timestamp::from_seconds(0));
    Ok(document(&packages, &release, &created, manifest))
}

fn document(packages: &[Package], release: &Release, created: &Timestamp, manifest: &Digest) -> Value {
    let mut items = vec![json!({
        "SPDXID": IMAGE,
        "name": manifest.to_string(),
        "versionInfo": manifest.to_string(),
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
    })];
    let relation = |from: &str, kind: &str, to: &str| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let mut relations = vec![relation(DOCUMENT, "DESCRIBES", IMAGE)];
    for package in packages {
        let address = package_url(package, release);
        let id = identifier(package, &address);
        relations.push(relation(IMAGE, "CONTAINS", &id));
        items.push(item(package, &id, &address));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": manifest.to_string(),
        "documentNamespace": format!("urn:cooperage:spdx:{manifest}"),
        "creationInfo": {
            // Whole seconds, as the specification has it.
            "created": Timestamp::from_seconds(created.seconds()).to_string(),
            "creators": [concat!("Tool: cooperage-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": items,
        "relationships": relations,
    })
}

fn item(package: &Package, id: &str, address: &str) -> Value {
    let comment = package
        .license
        .as_deref()
        .map(|license| ("licenseComments", format!("declared by the package: {license}")));
    let source = package
        .source
        .as_deref()
        .map(|source| ("sourceInfo", format!("built from the source package {source}")));
    let mut item = json!({
        "SPDXID": id,
        "name": package.name,
        "versionInfo": package.version,
        "supplier": supplier(package.maintainer.as_deref()),
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        // What packages write there is often no expression of SPDX's.
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": address,
        }],
    });
    if let Some(fields) = item.as_object_mut() {
        fields.extend(source.into_iter().chain(comment).map(|(name, text)| (name.to_owned(), text.into())));
    }
    item
}

fn supplier(maintainer: Option<&str>) -> String {
    let Some(maintainer) = maintainer.filter(|text| !text.is_empty()) else { return UNKNOWN.to_owned() };
    match maintainer.split_once('<') {
        Some((name, mail)) => format!("Person: {} ({})", name.trim(), mail.trim_end_matches('>').trim()),
        None => format!("Person: {maintainer}"),
    }
}

/// `pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12`.
fn package_url(package: &Package, release: &Release) -> String {
    let (kind, usual) = match package.kind {
        PackageKind::Deb => ("deb", "debian"),
        PackageKind::Apk => ("apk", "alpine"),
    };
    let distribution = release.id.as_deref().unwrap_or(usual);
    let mut address =
        format!("pkg:{kind}/{distribution}/{}@{}", encoded(&package.name), encoded(&package.version));
    let mut before = '?';
    let mut add = |name: &str, value: &str| {
        address.push(before);
        address.push_str(&format!("{name}={value}"));
        before = '&';
    };
    if !package.architecture.is_empty() {
        add("arch", &encoded(&package.architecture));
    }
    if let (Some(id), Some(version)) = (&release.id, &release.version) {
        add("distro", &format!("{id}-{version}"));
    }
    address
}

/// As purl has it: all but letters, digits, `.`, `-`, `_`, `~` and `:` by their bytes.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Letters, digits, dots and dashes alone are allowed: what was left out is told apart by a digest.
fn identifier(package: &Package, address: &str) -> String {
    let name: String = package
        .name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' })
        .collect();
    let sum: String = Digest::sha256(address.as_bytes()).hex().chars().take(16).collect();
    format!("SPDXRef-Package-{name}-{sum}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_packages() {
        let package = Package {
            kind: PackageKind::Deb,
            name: "libstdc++6".to_owned(),
            version: "1:12.2+x~1".to_owned(),
            architecture: "amd64".to_owned(),
            source: None,
            maintainer: None,
            license: None,
        };
        let release = Release { id: Some("debian".to_owned()), version: Some("12".to_owned()) };
        assert_eq!(
            package_url(&package, &release),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2%2Bx~1?arch=amd64&distro=debian-12"
        );
        assert_eq!(supplier(Some("A B <a@b>")), "Person: A B (a@b)");
        assert_eq!(supplier(None), UNKNOWN);
        assert!(identifier(&package, "x").starts_with("SPDXRef-Package-libstdc--6-"));
    }
}
