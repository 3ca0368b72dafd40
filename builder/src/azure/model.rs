//! A deployment as data: parameters, resources and outputs, from which Bicep and ARM JSON are both written.
//!
//! What cannot be said here cannot differ between the two: names, types, API versions and properties are stated once.

/// A value, or how to come by it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text as it is.
    Text(String),
    /// A whole number.
    Number(i64),
    /// True or false.
    Bool(bool),
    /// A list.
    List(Vec<Value>),
    /// Properties, in order.
    Object(Vec<(&'static str, Value)>),
    /// The value of a parameter.
    Parameter(&'static str),
    /// The location of the resource group that is deployed to.
    GroupLocation,
    /// The id of a resource of this deployment, by its symbol.
    Id(&'static str),
    /// The object id of a resource's own identity.
    Principal(&'static str),
    /// The id of a role that every subscription knows.
    Role(&'static str),
    /// A name made of values, the same at every deployment.
    Guid(Vec<Value>),
    /// Values one after the other.
    Joined(Vec<Value>),
    /// The first where a parameter is empty, else the second.
    IfEmpty(&'static str, Box<[Value; 2]>),
}

impl Value {
    /// A value as it is.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// `{ id: … }`, by which resources name each other.
    pub fn reference(id: Value) -> Self {
        Self::Object(vec![("id", id)])
    }

    /// Calls `visit` with this value and everything in it.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Self)) {
        visit(self);
        match self {
            Self::List(all) | Self::Guid(all) | Self::Joined(all) => {
                all.iter().for_each(|value| value.walk(visit));
            }
            Self::Object(all) => all.iter().for_each(|(_, value)| value.walk(visit)),
            Self::IfEmpty(_, both) => both.iter().for_each(|value| value.walk(visit)),
            _ => {}
        }
    }
}

/// A parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// `string` or `int`.
    pub kind: &'static str,
    /// What it is, for people.
    pub description: &'static str,
    /// What it is unless somebody says otherwise; none: somebody must.
    pub default: Option<Value>,
}

/// A resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// What the others call it.
    pub symbol: &'static str,
    /// Provider and type: `Microsoft.Compute/galleries/images`.
    pub kind: &'static str,
    /// API version.
    pub api: &'static str,
    /// Its name; of a child, the last part of it.
    pub name: Value,
    /// The resource that it is a child of.
    pub parent: Option<&'static str>,
    /// The resource that it extends.
    pub scope: Option<&'static str>,
    /// Is it there already?
    pub existing: bool,
    /// What else stands at its top.
    pub fields: Vec<(&'static str, Value)>,
    /// For people, above it.
    pub comment: &'static str,
}

/// A deployment within one: a name in it may be made of what is known only when the outer one's resources are there.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// Its Bicep, which is a file of its own; ARM JSON holds it within the outer one.
    pub file: &'static str,
    /// What the outer one calls it.
    pub symbol: &'static str,
    /// Its name among the deployments to the group: at most 64 signs.
    pub name: Value,
    /// What its parameters are.
    pub arguments: Vec<(&'static str, Value)>,
    /// For people, above it.
    pub comment: &'static str,
    /// What it deploys.
    pub deployment: Deployment,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// What it is, for people.
    pub title: String,
    /// Parameters, in order.
    pub parameters: Vec<Parameter>,
    /// Resources, each after those that it needs.
    pub resources: Vec<Resource>,
    /// What is deployed after them.
    pub modules: Vec<Module>,
    /// Name → text that the deployment tells when it is done.
    pub outputs: Vec<(&'static str, Value)>,
}

impl Deployment {
    /// A resource by its symbol. Every symbol that a deployment of ours uses is one of its resources; a test says so.
    pub fn resource(&self, symbol: &str) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.symbol == symbol)
    }

    /// A resource and those that it is a child of, the outermost first.
    pub fn line<'a>(&'a self, resource: &'a Resource) -> Vec<&'a Resource> {
        let mut line = vec![resource];
        let mut at = resource;
        // A deployment has no more generations than resources.
        for _ in &self.resources {
            let Some(parent) = at.parent.and_then(|symbol| self.resource(symbol)) else { break };
            line.insert(0, parent);
            at = parent;
        }
        line
    }

    /// The symbols that a resource uses, in order, each once.
    pub fn needs(&self, resource: &Resource) -> Vec<&'static str> {
        let mut found: Vec<&'static str> = resource.parent.into_iter().chain(resource.scope).collect();
        found.extend(symbols(&resource.name, &resource.fields));
        once(found.into_iter().filter(|symbol| *symbol != resource.symbol))
    }
}

impl Module {
    /// The symbols of the outer deployment that it uses, in order, each once.
    pub fn needs(&self) -> Vec<&'static str> {
        once(symbols(&self.name, &self.arguments))
    }
}

/// The symbols in a name and in what belongs to it.
fn symbols(name: &Value, of: &[(&'static str, Value)]) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut visit = |value: &Value| {
        if let Value::Id(symbol) | Value::Principal(symbol) = value {
            found.push(*symbol);
        }
    };
    name.walk(&mut visit);
    of.iter().for_each(|(_, value)| value.walk(&mut visit));
    found
}

fn once(found: impl IntoIterator<Item = &'static str>) -> Vec<&'static str> {
    let mut once = Vec::new();
    for symbol in found {
        if !once.contains(&symbol) {
            once.push(symbol);
        }
    }
    once
}
