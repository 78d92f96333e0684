// Sets the theme before the first paint. Kept apart from the modules, which load later.
(() => {
  try {
    const theme = localStorage.getItem("rerail.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be switched off: the system's theme serves.
  }
})();
