// Empty: a package with functions that are linked to the runtime's needs an
// assembly file.
