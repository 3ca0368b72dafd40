// A VM may read the secrets of a vault.
// Written by edgepress azure; azuredeploy.json says the same.
targetScope = 'resourceGroup'

@description('The key vault, in this resource group.')
param vaultName string

@description('The VM\'s own identity.')
param principalId string

// Its permissions must go by roles (RBAC)
resource vault 'Microsoft.KeyVault/vaults@2023-07-01' existing = {
  name: vaultName
}

// Key Vault Secrets User
resource role 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: vault
  name: guid(vault.id, principalId, '4633458b-17de-408a-b874-0445c86b69e6')
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '4633458b-17de-408a-b874-0445c86b69e6')
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}
